"""What is sent: compile a message once, then bytes per recipient."""
