"""Where jobs run: in this process (`inline`) or on Ray's workers (`ray`)."""
