"""``make bench``: onsale beside other ways to sell seats, in one run, on the same servers."""
