-- Dead letters are few among all that ended.

CREATE INDEX dead_letters ON ended_bookings (ended_at, id) WHERE outcome = 'dead';
