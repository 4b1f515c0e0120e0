"""Ways of carrying slots from one side to the other, behind one small interface."""
