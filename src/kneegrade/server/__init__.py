"""Services: the reader's page with its log of corrections."""
