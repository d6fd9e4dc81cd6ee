"""Layouts turn "this block onto this trunk" into a plan. Pure: headers in, plan out."""
