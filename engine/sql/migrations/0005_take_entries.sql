-- The drain's plain case in one statement: entries which follow the mark, and of which nothing is
-- refused. It takes the place of take_bookings, which took no cancels.
--
-- What begins and what ends comes in columns, a value per row. `ended` are bookings of the ledger,
-- `passed` were reserved and cancelled within the batch.
--
-- False if the partition is not as the drain believes it to be; then nothing was written. What the
-- ledger would refuse, were the entries taken one by one, is an error of class 23, and nothing is
-- written either. An event must have room for all that begins before anything ends.
DROP FUNCTION take_bookings;

CREATE FUNCTION take_entries(
    partition integer, of_epoch integer, of_shift bigint, after bigint, upto bigint,
    ids bigint[], event_ids integer[], user_ids text[], times timestamptz[],
    ended_ids bigint[], ended_event_ids integer[], ended_user_ids text[], ended_times timestamptz[],
    passed_ids bigint[], passed_event_ids integer[], passed_user_ids text[],
    passed_times timestamptz[]
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    touched integer[];
    found_rows integer;
BEGIN
    PERFORM set_config('onsale.engine', 'on', true);
    LOCK TABLE bookings IN ROW EXCLUSIVE MODE;
    UPDATE partitions SET mark_seq = upto
    WHERE p = partition AND epoch = of_epoch AND state = 'open' AND shift = of_shift
        AND mark_epoch = of_epoch AND mark_seq = after;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    touched := event_ids || ended_event_ids || passed_event_ids;
    PERFORM FROM events WHERE id = ANY (touched) ORDER BY id FOR NO KEY UPDATE;
    IF cardinality(ended_ids) + cardinality(passed_ids) > 0 THEN
        IF EXISTS (
            SELECT FROM (
                SELECT event_id, count(*) AS rows
                FROM unnest(event_ids || passed_event_ids) AS begun (event_id) GROUP BY event_id
            ) AS begun
            LEFT JOIN events ON events.id = begun.event_id
            WHERE events.id IS NULL OR events.booked + begun.rows > events.total_seats
        ) THEN
            RAISE check_violation USING MESSAGE = 'a seat may be missing';
        END IF;
        WITH gone AS (
            DELETE FROM bookings
            USING unnest(ended_ids, ended_event_ids, ended_user_ids, ended_times)
                AS ended (id, event_id, user_id, ended_at)
            WHERE bookings.id = ended.id AND bookings.event_id = ended.event_id
                AND bookings.user_id = ended.user_id
            RETURNING bookings.id, bookings.event_id, bookings.user_id, created_at, ended.ended_at
        )
        INSERT INTO ended_bookings (id, event_id, user_id, created_at, ended_at, outcome)
        SELECT id, event_id, user_id, created_at, ended_at, 'cancelled' FROM gone;
        GET DIAGNOSTICS found_rows = ROW_COUNT;
        IF found_rows <> cardinality(ended_ids) THEN
            RAISE integrity_constraint_violation USING MESSAGE = 'a booking is not there to cancel';
        END IF;
        IF EXISTS (
            SELECT FROM bookings JOIN unnest(passed_event_ids, passed_user_ids)
                AS passed (event_id, user_id) USING (event_id, user_id)
        ) THEN
            RAISE unique_violation USING MESSAGE = 'a user holds another booking';
        END IF;
        INSERT INTO ended_bookings (id, event_id, user_id, created_at, outcome)
        SELECT passed.*, 'cancelled'
        FROM unnest(passed_ids, passed_event_ids, passed_user_ids, passed_times) AS passed;
    END IF;
    INSERT INTO bookings (id, event_id, user_id, created_at)
    SELECT * FROM unnest(ids, event_ids, user_ids, times);
    RETURN true;
END $$;
