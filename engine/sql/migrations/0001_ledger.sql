-- The ledger: what it says is true.

CREATE TABLE events (
    id          serial PRIMARY KEY,
    name        varchar(255) NOT NULL,
    total_seats integer NOT NULL,
    booked      integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT no_overselling CHECK (booked BETWEEN 0 AND total_seats)
) WITH (fillfactor = 50);  -- `booked` changes with every batch: room for HOT updates

-- Rows inserted by hand get an id of epoch 0 and partition 127 (engine/model.py).
CREATE SEQUENCE bookings_by_hand AS bigint MAXVALUE 4294967295;

CREATE TABLE bookings (
    id         bigint PRIMARY KEY DEFAULT nextval('bookings_by_hand') * 128 + 127,
    event_id   integer NOT NULL REFERENCES events,
    user_id    varchar(255) NOT NULL CONSTRAINT user_id_not_empty CHECK (user_id <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT one_booking_per_user UNIQUE (event_id, user_id),
    CONSTRAINT id_names_its_epoch CHECK (id > 0 AND (id & 127 = 127) = (id >> 39 = 0))
);
CREATE INDEX bookings_of_user ON bookings (user_id);
ALTER SEQUENCE bookings_by_hand OWNED BY bookings.id;

CREATE TABLE ended_bookings (
    id         bigint PRIMARY KEY,
    event_id   integer,
    user_id    varchar(255),
    created_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL DEFAULT now(),
    outcome    text NOT NULL,
    reason     text,
    entry      text,  -- a dead letter's item, whole, as JSON
    CONSTRAINT known_outcome CHECK (outcome IN ('cancelled', 'rejected', 'dead')),
    CONSTRAINT dead_letters_are_whole CHECK ((outcome = 'dead') = (entry IS NOT NULL))
);
CREATE INDEX ended_bookings_of_user ON ended_bookings (user_id);

CREATE TABLE partitions (
    p          smallint PRIMARY KEY CHECK (p BETWEEN 0 AND 126),
    epoch      integer NOT NULL DEFAULT 0 CHECK (epoch BETWEEN 0 AND 16383),
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'recovering')),
    mark_epoch integer NOT NULL DEFAULT 0,
    mark_seq   bigint NOT NULL DEFAULT 0,
    shift      bigint NOT NULL DEFAULT 0,  -- the number of the last shift that began
    holder     text NOT NULL DEFAULT '',   -- who has it, for people
    changed_at timestamptz NOT NULL DEFAULT now(),  -- of epoch and state
    CONSTRAINT mark_not_ahead CHECK (mark_epoch <= epoch)
) WITH (fillfactor = 10);

CREATE TABLE epochs (
    p          smallint NOT NULL REFERENCES partitions,
    epoch      integer NOT NULL,
    closed_seq bigint,  -- the last number that reached the ledger; null while it is open
    opened_at  timestamptz NOT NULL DEFAULT now(),
    closed_at  timestamptz,
    PRIMARY KEY (p, epoch)
);

-- Numbers that were given out and disappeared from an outbox before the ledger took them.
CREATE TABLE gaps (
    p         smallint NOT NULL REFERENCES partitions,
    epoch     integer NOT NULL,
    first_seq bigint NOT NULL,
    last_seq  bigint NOT NULL,
    found_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (p, epoch, first_seq)
);

-- Whoever takes a partition's lock holds `bookings` too, and before any row of `events`: a
-- TRUNCATE by hand locks in that order as well, so the two can never deadlock.
CREATE FUNCTION lock_partition(wanted integer) RETURNS partitions LANGUAGE plpgsql AS $$
DECLARE
    found partitions;
BEGIN
    PERFORM set_config('onsale.engine', 'on', true);
    LOCK TABLE bookings IN ROW EXCLUSIVE MODE;
    SELECT * INTO found FROM partitions WHERE p = wanted FOR UPDATE;
    RETURN found;
END $$;

-- Changes by hand are told to the engine; its own are not.
CREATE FUNCTION by_hand() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(current_setting('onsale.engine', true), '') <> 'on'
$$;

-- The users are named if they fit into a notification (8,000 bytes).
CREATE FUNCTION tell_of_rows(event_id integer, users text[]) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('onsale', CASE
        WHEN octet_length(to_json(users)::text) < 7000 THEN 'event ' || event_id || ' ' || to_json(users)
        ELSE 'event ' || event_id
    END)
$$;

CREATE FUNCTION count_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF by_hand() THEN
        PERFORM FROM events WHERE id IN (SELECT event_id FROM added) ORDER BY id FOR NO KEY UPDATE;
        PERFORM tell_of_rows(event_id, array_agg(user_id)) FROM added GROUP BY event_id;
    END IF;
    UPDATE events SET booked = booked + n.count
    FROM (SELECT event_id, count(*) FROM added GROUP BY event_id) n WHERE id = n.event_id;
    RETURN NULL;
END $$;

CREATE FUNCTION count_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF by_hand() THEN
        PERFORM FROM events WHERE id IN (SELECT event_id FROM gone) ORDER BY id FOR NO KEY UPDATE;
        PERFORM tell_of_rows(event_id, array_agg(user_id)) FROM gone GROUP BY event_id;
    END IF;
    UPDATE events SET booked = booked - n.count
    FROM (SELECT event_id, count(*) FROM gone GROUP BY event_id) n WHERE id = n.event_id;
    RETURN NULL;
END $$;

CREATE FUNCTION count_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM events
    WHERE id IN (SELECT event_id FROM added UNION SELECT event_id FROM gone)
    ORDER BY id FOR NO KEY UPDATE;
    PERFORM tell_of_rows(event_id, array_agg(user_id))
    FROM (SELECT event_id, user_id FROM added UNION SELECT event_id, user_id FROM gone) e
    GROUP BY event_id;
    UPDATE events SET booked = booked + n.sum
    FROM (SELECT event_id, sum(one) FROM (SELECT event_id, 1 AS one FROM added
                                          UNION ALL SELECT event_id, -1 FROM gone) c
          GROUP BY event_id HAVING sum(one) <> 0) n
    WHERE id = n.event_id;
    RETURN NULL;
END $$;

CREATE FUNCTION count_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE events SET booked = 0 WHERE booked <> 0;
    PERFORM pg_notify('onsale', 'truncate');
    RETURN NULL;
END $$;

CREATE TRIGGER count_inserted AFTER INSERT ON bookings
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_inserted();
CREATE TRIGGER count_deleted AFTER DELETE ON bookings
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION count_deleted();
CREATE TRIGGER count_updated AFTER UPDATE ON bookings
    REFERENCING OLD TABLE AS gone NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_updated();
CREATE TRIGGER count_truncated AFTER TRUNCATE ON bookings
    FOR EACH STATEMENT EXECUTE FUNCTION count_truncated();

-- No user's booking changed: [].
CREATE FUNCTION tell_of_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM pg_notify('onsale', 'new ' || NEW.id);
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('onsale', 'event ' || OLD.id || ' []');
    ELSIF OLD.id <> NEW.id THEN
        PERFORM pg_notify('onsale', 'event ' || OLD.id || ' []');
        PERFORM pg_notify('onsale', 'event ' || NEW.id || ' []');
    ELSE
        PERFORM pg_notify('onsale', 'event ' || NEW.id || ' []');
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tell_of_new_event AFTER INSERT OR DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION tell_of_event();
CREATE TRIGGER tell_of_changed_event AFTER UPDATE OF id, name, total_seats ON events
    FOR EACH ROW EXECUTE FUNCTION tell_of_event();
