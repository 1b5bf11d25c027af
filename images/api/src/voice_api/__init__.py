"""The Voice Assistant's API: callers create a session here and get the token that lets them join its room."""
