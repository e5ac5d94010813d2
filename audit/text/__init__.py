"""Texts as a model gets them: tokens, words, weights, textual inversions."""
