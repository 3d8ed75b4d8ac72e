"""How techniques are run: recipe -> step -> loop."""
