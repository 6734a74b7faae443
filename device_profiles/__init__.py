"""What each known board is and can do, as data."""
