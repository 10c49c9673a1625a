"""Where results go: `delivery` tries and retries; one module for each protocol (C-STORE, STOW-RS, FHIR)."""
