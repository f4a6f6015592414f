-- The drain's commonest case in one statement: reserves alone, which follow the mark, and of which
-- nothing is refused. `take_entries` (0005) stays for what has cancels in it.
--
-- `event_ids`, `user_ids` and `times` (Unix ms) have a value per row, in the order of the numbers,
-- the first of which is `after` + 1; the ids are made of them here (engine/model.py). `sold` are the
-- events in the order of their ids, which is the order of their locks, and `counts` how many rows
-- each of them gets. So an event is locked and counted in one step, and the trigger need not count
-- the rows again: that and its call would be a tenth of what a small batch costs.
--
-- False if the partition is not as the drain believes it to be; then nothing was written. What the
-- ledger refuses is the error that its constraint raises, and nothing is written either.
CREATE FUNCTION take_reserves(
    partition integer, of_epoch integer, of_shift bigint, after bigint,
    sold integer[], counts integer[],
    event_ids integer[], user_ids text[], times bigint[]
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('onsale.engine', 'counts', true);
    LOCK TABLE bookings IN ROW EXCLUSIVE MODE;
    UPDATE partitions SET mark_seq = after + cardinality(user_ids)
    WHERE p = partition AND epoch = of_epoch AND state = 'open' AND shift = of_shift
        AND mark_epoch = of_epoch AND mark_seq = after;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR place IN 1 .. cardinality(sold) LOOP
        UPDATE events SET booked = booked + counts[place] WHERE id = sold[place];
    END LOOP;
    INSERT INTO bookings (id, event_id, user_id, created_at)
    SELECT ((of_epoch::bigint << 32 | after + place) << 7) | partition, event_id, user_id,
        'epoch'::timestamptz + at_ms * interval '1 millisecond'
    FROM unnest(event_ids, user_ids, times) WITH ORDINALITY
        AS rows (event_id, user_id, at_ms, place);
    RETURN true;
END $$;

-- Who says 'counts' is the engine, and has counted the rows that it inserts.
CREATE OR REPLACE FUNCTION by_hand() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(current_setting('onsale.engine', true), '') NOT IN ('on', 'counts')
$$;

CREATE OR REPLACE TRIGGER count_inserted AFTER INSERT ON bookings
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT
    WHEN (current_setting('onsale.engine', true) IS DISTINCT FROM 'counts')
    EXECUTE FUNCTION count_inserted();
