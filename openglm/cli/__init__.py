"""`glm VERB`: thin, and each verb imports what it needs only when it runs."""
