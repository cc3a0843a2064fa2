"""Real OpenCode, with a model that says what a test tells it to.

Imported by the tests and the demo; not shipped. `scripted_model` plays the language model,
`opencode` runs OpenCode's server in a HOME of its own, `window` drives its terminal window, and
`fixtures` hands all of them to pytest.
"""
