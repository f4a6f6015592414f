-- The engine's statements, by name. engine/ledger.py reads this file.

-- Migrations.

-- name: make_history
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: lock_history
SELECT pg_advisory_lock(hashtext('onsale'));

-- name: history
SELECT name, checksum FROM schema_migrations;

-- name: note_migration
INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2);

-- name: count_partitions
SELECT count(*) FROM partitions;

-- name: make_partitions
INSERT INTO partitions (p) SELECT generate_series(0, $1::int - 1);

-- Partitions and shifts.

-- name: partitions
SELECT p, epoch, state, mark_epoch, mark_seq, shift, changed_at < now() - interval '5 s' AS stale
FROM partitions ORDER BY p;

-- name: partition
SELECT p, epoch, state, mark_epoch, mark_seq, shift, changed_at < now() - interval '5 s' AS stale
FROM partitions WHERE p = $1;

-- name: holders
SELECT p, holder FROM partitions;

-- name: most_recoveries
-- The first epoch is no recovery.
SELECT coalesce(max(count), 0) AS most FROM (
    SELECT count(*) FROM epochs WHERE epoch > 1 AND opened_at > now() - interval '1 hour' GROUP BY p
) AS recent;

-- name: lock_partition
SELECT p, epoch, state, mark_epoch, mark_seq, shift, false AS stale FROM lock_partition($1);

-- name: begin_shift
UPDATE partitions SET shift = shift + 1, holder = $2 WHERE p = $1 RETURNING shift;

-- name: end_frozen
-- MATERIALIZED: beside the other conditions, the planner would try it on sessions of others.
WITH frozen AS MATERIALIZED (
    SELECT pid FROM pg_stat_activity
    WHERE application_name = 'onsale' AND datname = current_database() AND usename = current_user
        AND xact_start IS NOT NULL AND wait_event = 'ClientRead'
        AND state_change < now() - make_interval(secs => $1)
)
SELECT pid FROM frozen WHERE pg_terminate_backend(pid);

-- The drain. The events are locked in id order.

-- name: take_entries
SELECT take_entries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17);

-- name: take_reserves
SELECT take_reserves($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: lock_events
SELECT id, total_seats, booked FROM events WHERE id = ANY($1::int[])
ORDER BY id FOR NO KEY UPDATE;

-- name: held
SELECT b.event_id, b.user_id, b.id
FROM unnest($1::int[], $2::text[]) AS wanted (event_id, user_id)
JOIN bookings b ON b.event_id = wanted.event_id AND b.user_id = wanted.user_id;

-- name: end_held
WITH gone AS (
    DELETE FROM bookings USING unnest($1::bigint[], $2::timestamptz[]) AS ended (id, ended_at)
    WHERE bookings.id = ended.id
    RETURNING bookings.id, event_id, user_id, created_at, ended.ended_at
)
INSERT INTO ended_bookings (id, event_id, user_id, created_at, ended_at, outcome)
SELECT id, event_id, user_id, created_at, ended_at, 'cancelled' FROM gone;

-- name: insert_bookings
INSERT INTO bookings (id, event_id, user_id, created_at)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::timestamptz[]);

-- name: insert_ended
INSERT INTO ended_bookings (id, event_id, user_id, created_at, outcome, reason)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::timestamptz[], $5::text[], $6::text[]);

-- name: insert_dead
INSERT INTO ended_bookings (id, event_id, user_id, created_at, outcome, reason, entry)
VALUES (coalesce($1, nextval('bookings_by_hand') * 128 + 127), $2, $3, $4, 'dead', $5, $6);

-- name: insert_gap
INSERT INTO gaps (p, epoch, first_seq, last_seq) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING;

-- name: set_mark
-- A recovery that drains goes on: it is not stale.
UPDATE partitions SET mark_epoch = $2, mark_seq = $3,
    changed_at = CASE state WHEN 'recovering' THEN now() ELSE changed_at END
WHERE p = $1;

-- Recovery.

-- name: advance_epoch
UPDATE partitions SET epoch = epoch + 1, state = 'recovering', changed_at = now()
WHERE p = $1 AND epoch = $2 AND (state = 'open' OR changed_at < now() - interval '5 s')
    -- Ten in ten seconds, then one a second: two versions of the scripts beside each other recover
    -- without end, each from the other, and there are 16,383 epochs.
    AND NOT EXISTS (
        SELECT FROM epochs WHERE p = $1 AND epoch = $2 - 9 AND opened_at > now() - interval '10 s'
    )
RETURNING epoch;

-- name: keep_recovering
UPDATE partitions SET changed_at = now() WHERE p = $1 AND epoch = $2 AND state = 'recovering'
RETURNING epoch;

-- name: give_up_recovering
UPDATE partitions SET changed_at = now() - interval '4.5 s'
WHERE p = $1 AND epoch = $2 AND state = 'recovering';

-- name: close_epoch
UPDATE epochs SET closed_at = now(), closed_seq = $3
WHERE p = $1 AND epoch = $2 AND closed_at IS NULL;

-- name: close_epochs
UPDATE epochs SET closed_at = now(), closed_seq = CASE WHEN epoch = $2 THEN $3::bigint ELSE 0 END
WHERE p = $1 AND closed_at IS NULL;

-- name: open_epoch
INSERT INTO epochs (p, epoch) VALUES ($1, $2);

-- name: open_partition
UPDATE partitions SET state = 'open', mark_epoch = $2, mark_seq = 0, changed_at = now()
WHERE p = $1 AND epoch = $2;

-- Reads.

-- name: event
SELECT id, name, total_seats, opens_at, closes_at, booked FROM events WHERE id = $1;

-- name: events_after
SELECT id, name, total_seats, opens_at, closes_at, booked
FROM events WHERE id > $1 ORDER BY id LIMIT $2;

-- name: busiest_events
SELECT id, name, total_seats, opens_at, closes_at, booked, count(*) OVER () AS total
FROM events ORDER BY booked DESC, id LIMIT $1;

-- name: event_ids
SELECT id FROM events ORDER BY id;

-- name: event_bookings_after
-- The number is text, as Redis has it: see Number.of_booking in engine/model.py.
SELECT user_id, (id >> 39) || '-' || (id >> 7 & 4294967295) AS number
FROM bookings WHERE event_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3;

-- name: event_bookings
SELECT id, event_id, user_id, created_at FROM bookings
WHERE event_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3;

-- name: user_bookings
-- Instants are also given in microseconds, exact: half of a cursor. Dead letters have no user.
SELECT b.id, event_id, created_at, ended_at, outcome, reason, name, total_seats, opens_at, closes_at,
    (extract(epoch FROM created_at) * 1000000)::bigint AS at_us
FROM (
    SELECT id, event_id, created_at, NULL AS ended_at, 'confirmed' AS outcome, NULL AS reason
    FROM bookings WHERE user_id = $1
    UNION ALL
    SELECT id, event_id, created_at, ended_at, outcome, reason
    FROM ended_bookings WHERE user_id = $1 AND outcome <> 'dead'
) AS b
LEFT JOIN (SELECT id AS event_id, name, total_seats, opens_at, closes_at FROM events) AS e
    USING (event_id)
WHERE $2::bigint IS NULL
    OR (created_at, b.id) < ('epoch'::timestamptz + $2 * interval '1 microsecond', $3::bigint)
ORDER BY created_at DESC, b.id DESC LIMIT $4;

-- name: booking
SELECT b.id, b.event_id, b.user_id, b.created_at, e.name, e.total_seats, e.opens_at, e.closes_at
FROM bookings b JOIN events e ON e.id = b.event_id WHERE b.id = $1;

-- name: ended_booking
SELECT id, event_id, user_id, created_at, outcome, reason FROM ended_bookings WHERE id = $1;

-- name: fates
SELECT n.id,
    CASE
        WHEN n.epoch > p.mark_epoch OR (n.epoch = p.mark_epoch AND n.seq > p.mark_seq)
            THEN 'pending'
        WHEN n.epoch < p.mark_epoch AND n.epoch > 0 AND n.seq > coalesce(
            (SELECT closed_seq FROM epochs x WHERE x.p = p.p AND x.epoch = n.epoch), 0)
            THEN 'lost'
        WHEN EXISTS (SELECT FROM gaps g WHERE g.p = p.p AND g.epoch = n.epoch
                     AND n.seq BETWEEN g.first_seq AND g.last_seq)
            THEN 'lost'
        WHEN e.outcome IN ('rejected', 'dead') THEN 'rejected'
        ELSE 'confirmed'
    END AS status,
    e.reason
FROM partitions p
CROSS JOIN unnest($2::bigint[], $3::int[], $4::bigint[]) AS n (id, epoch, seq)
LEFT JOIN ended_bookings e ON e.id = n.id
WHERE p.p = $1;

-- name: user_statistics
SELECT count(*) FILTER (WHERE active) AS active,
       count(*) FILTER (WHERE NOT active) AS cancelled,
       min(created_at) AS first_at, max(created_at) AS last_at
FROM (
    SELECT true AS active, created_at FROM bookings WHERE user_id = $1
    UNION ALL
    SELECT false, created_at FROM ended_bookings WHERE user_id = $1 AND outcome = 'cancelled'
) AS all_of_them;

-- Events, made and changed on request.

-- name: create_events
INSERT INTO events (name, total_seats, opens_at, closes_at)
SELECT name, total_seats, opens_at, closes_at
FROM unnest($1::text[], $2::int[], $3::timestamptz[], $4::timestamptz[]) WITH ORDINALITY
    AS wanted (name, total_seats, opens_at, closes_at, place)
ORDER BY place
RETURNING id, name, total_seats, opens_at, closes_at;

-- name: change_event
-- A bound is changed if $4, or $6, says so; to null, too.
UPDATE events SET name = coalesce($2, name), total_seats = coalesce($3, total_seats),
    opens_at = CASE WHEN $4::bool THEN $5::timestamptz ELSE opens_at END,
    closes_at = CASE WHEN $6::bool THEN $7::timestamptz ELSE closes_at END
WHERE id = $1 AND coalesce($3, total_seats) >= booked
    AND (CASE WHEN $4 THEN $5 ELSE opens_at END < CASE WHEN $6 THEN $7 ELSE closes_at END)
        IS NOT FALSE
RETURNING id, name, total_seats, opens_at, closes_at, booked;

-- Reconciliation.

-- name: lock_event
SELECT id, name, total_seats, opens_at, closes_at FROM events WHERE id = $1 FOR NO KEY UPDATE;

-- name: count_bookings
SELECT booked, (SELECT count(*) FROM bookings WHERE event_id = $1) AS count
FROM events WHERE id = $1;

-- name: lock_count
SELECT pg_advisory_xact_lock(hashtext('onsale count'), $1);

-- name: add_booked
UPDATE events SET booked = booked + $2 WHERE id = $1;

-- name: booked_with_mark
SELECT p.mark_epoch, p.mark_seq, e.booked FROM partitions p CROSS JOIN events e
WHERE p.p = $1 AND e.id = $2;

-- name: held_with_mark
SELECT p.mark_epoch, p.mark_seq, b.user_id, b.id
FROM partitions p
LEFT JOIN bookings b ON b.event_id = $2 AND b.user_id = ANY($3::text[])
WHERE p.p = $1;

-- The server, for onsale doctor.

-- name: server_settings
SELECT name, setting FROM pg_settings;

-- name: server_facts
SELECT extract(epoch FROM clock_timestamp())::float8 AS now_s, pg_is_in_recovery() AS in_recovery,
    (SELECT count(*) FROM pg_stat_activity
     WHERE datname IS NOT NULL AND pid <> pg_backend_pid()
         AND application_name IS DISTINCT FROM 'onsale') AS sessions;

-- name: standbys
SELECT application_name, sync_state FROM pg_stat_replication;

-- name: vacuum_off
SELECT relname FROM pg_class
WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
    AND EXISTS (SELECT FROM pg_options_to_table(reloptions)
                WHERE option_name = 'autovacuum_enabled' AND option_value IN ('false', 'off'))
ORDER BY relname;

-- Dead letters.

-- name: dead_letters
SELECT id, ended_at, event_id, reason, entry, count(*) OVER () AS total
FROM ended_bookings WHERE outcome = 'dead' ORDER BY ended_at DESC, id DESC LIMIT $1;

-- name: dead_letter_ids
SELECT id FROM ended_bookings WHERE outcome = 'dead' ORDER BY ended_at, id;

-- name: dead_letter
SELECT id, ended_at, event_id, reason, entry FROM ended_bookings WHERE id = $1 AND outcome = 'dead';

-- name: count_dead_letters
SELECT count(*) FROM ended_bookings WHERE outcome = 'dead';

-- name: cancel_dead_letters
UPDATE ended_bookings e
SET outcome = 'cancelled', user_id = n.user_id, reason = NULL, entry = NULL
FROM unnest($1::bigint[], $2::text[]) AS n (id, user_id)
WHERE e.id = n.id AND e.outcome = 'dead'
RETURNING e.id;

-- name: lock_dead_letter
SELECT id FROM ended_bookings WHERE id = $1 AND outcome = 'dead' FOR UPDATE;

-- name: delete_dead_letter
DELETE FROM ended_bookings WHERE id = $1 AND outcome = 'dead';

-- name: discard_dead_letter
WITH letter AS (
    SELECT id, ended_at, event_id, reason, entry FROM ended_bookings
    WHERE id = $1 AND outcome = 'dead' FOR UPDATE
)
UPDATE ended_bookings SET outcome = 'rejected', entry = NULL FROM letter
WHERE ended_bookings.id = letter.id
RETURNING letter.*;

-- Service keys.

-- name: service_keys
SELECT name, digest, scopes, created_at FROM service_keys ORDER BY name;

-- name: insert_key
INSERT INTO service_keys (name, digest, scopes) VALUES ($1, $2, $3)
ON CONFLICT (name) DO NOTHING RETURNING name;

-- name: delete_key
DELETE FROM service_keys WHERE name = $1 RETURNING name;
