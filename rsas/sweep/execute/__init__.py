"""How trials run: the dispatcher without Ray, and Ray with Tune, its workers and its cluster."""
