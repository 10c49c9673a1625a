"""The reader's workplace: films to read (`*_store`), readings (`review`, `review_log`), requests, output."""
