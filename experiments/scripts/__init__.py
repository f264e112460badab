"""Scripts in the manner of Keras' examples, with the lines that fda_tf needs.

Each runs alone, and on K workers by
`python -m fda_tf.launch --workers=2 experiments/scripts/vae.py`.
docs/scripts.md says what came of them.
"""
