"""Several servers on one PostgreSQL: which of them drives which study, and what they tell each other."""
