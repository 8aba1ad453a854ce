"""Programs of the people who build and measure this project; nothing here is packed or served."""
