"""Any number of films → Parquet tables."""
