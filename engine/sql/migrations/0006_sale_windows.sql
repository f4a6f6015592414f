-- When an event is sold: from `opens_at` on, and before `closes_at`; null is no bound. Redis's clock
-- decides. Whatever Redis has sold the ledger takes, whenever it comes.
ALTER TABLE events
    ADD COLUMN opens_at timestamptz,
    ADD COLUMN closes_at timestamptz,
    ADD CONSTRAINT opens_before_it_closes CHECK (opens_at < closes_at),
    ADD CONSTRAINT window_is_in_our_era CHECK (
        opens_at BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 23:59:59.999+00'
        AND closes_at BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 23:59:59.999+00'
    );

DROP TRIGGER tell_of_changed_event ON events;
CREATE TRIGGER tell_of_changed_event
    AFTER UPDATE OF id, name, total_seats, opens_at, closes_at ON events
    FOR EACH ROW EXECUTE FUNCTION tell_of_event();
