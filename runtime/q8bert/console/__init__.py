"""How every command talks."""
