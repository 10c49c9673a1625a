"""The spool: films, results and deliveries on disk, before they are acknowledged. `Spool` is in `film_spool`."""
