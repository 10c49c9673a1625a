"""The REST service: `rest_app` has its routes, `http_guard` what every request must pass, `rest_server` runs it."""
