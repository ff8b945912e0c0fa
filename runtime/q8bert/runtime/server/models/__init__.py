"""The models of a server: where they come from, and how one takes another's place."""
