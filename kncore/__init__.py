"""The foundation shared by every component; imports none of them."""
