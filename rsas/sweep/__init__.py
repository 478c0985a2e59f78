"""The sweep: suggestion -> trial -> result -> study -> mirror, a room for each.

``commands`` launches, resumes and extends; ``session`` wires one run of a sweep.
"""
