"""DoomRooms: the real default world, rooms generated from a seed and drawn by a real game engine."""
