"""How fast and how big: measurements of the teacher and of what ships."""
