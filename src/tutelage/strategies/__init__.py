"""Ways to distil that are more than an objective: here, when the data that taught the teacher is not to be had.

inversion   inputs are changed until the teacher sees in them what was asked for; they become examples like any other
datafree    a generator learns to make inputs for the student while the student learns from the teacher
"""
