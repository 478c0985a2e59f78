"""The sweep: suggestion -> trial -> result -> study -> mirror, a package for each step.

``commands`` launches, resumes and extends; ``session`` connects the parts of one run of a sweep.
"""
