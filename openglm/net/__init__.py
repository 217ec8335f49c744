"""The one HTTP client of the package: to public addresses alone, and never without an end."""
