-- Keys of services that call the API. A key is 256 random bits, so that its plain hash cannot be
-- turned back; a slow hash is for what people choose.

CREATE TABLE service_keys (
    name       varchar(64) PRIMARY KEY,
    digest     bytea NOT NULL UNIQUE,
    scopes     text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sha256 CHECK (octet_length(digest) = 32),
    CONSTRAINT scopes_known CHECK (
        cardinality(scopes) > 0 AND scopes <@ ARRAY['reserve', 'read', 'metrics', 'admin']
    )
);

-- Every API process has all keys in memory, and reads them again when it hears this.
CREATE FUNCTION tell_of_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('onsale', 'keys');
    RETURN NULL;
END $$;

CREATE TRIGGER tell_of_keys AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON service_keys
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_keys();
