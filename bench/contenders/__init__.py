"""Other ways to sell seats, each written as well as we can: what onsale is measured against."""
