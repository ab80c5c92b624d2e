"""Models behind a URL that speaks OpenAI's API."""
