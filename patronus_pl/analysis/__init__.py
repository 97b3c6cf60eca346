"""What a trained model shows of itself.

The rooms, each of which may use those before it: `editing` (take images apart, change activations, decode), then
`explain` (what, where, when) and `attributes` (what prototypes and judges read), then `evaluate` (numbers) and `pages`
(pictures), then `report` and `audit` (whole pages).
"""
