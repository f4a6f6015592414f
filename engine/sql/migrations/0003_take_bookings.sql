-- The drain's plain case in one statement: reserves alone, which follow the mark and all fit.
--
-- False if the partition is not as the drain believes it to be; then nothing was written. What the
-- ledger refuses is the error that its constraint raises, and nothing is written either.
CREATE FUNCTION take_bookings(
    partition integer, of_epoch integer, of_shift bigint, after bigint, upto bigint,
    ids bigint[], event_ids integer[], user_ids text[], times timestamptz[]
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('onsale.engine', 'on', true);
    LOCK TABLE bookings IN ROW EXCLUSIVE MODE;
    UPDATE partitions SET mark_seq = upto
    WHERE p = partition AND epoch = of_epoch AND state = 'open' AND shift = of_shift
        AND mark_epoch = of_epoch AND mark_seq = after;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM events WHERE id = ANY (event_ids) ORDER BY id FOR NO KEY UPDATE;
    INSERT INTO bookings (id, event_id, user_id, created_at)
    SELECT * FROM unnest(ids, event_ids, user_ids, times);
    RETURN true;
END $$;
