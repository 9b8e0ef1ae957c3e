"""Serving: an actor behind HTTP and WebSockets."""
