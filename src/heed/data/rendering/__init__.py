"""Chat templates: rendered, their conventions and stops found out, what they show proved by marks."""
