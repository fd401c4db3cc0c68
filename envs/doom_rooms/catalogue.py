"""What rooms are furnished with: names of Freedoom's textures, flats and sprites."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PropKind:
    """A kind of static furniture.

    Attributes:
        sprite: four-letter sprite name; its frame A never changes, so a revisit shows the same picture.
        radius: half the side of the solid box around it, in map units.
        scale: size of the sprite against Freedoom's own.
        bright: drawn at full brightness whatever the light of the room.
    """

    sprite: str
    radius: int = 16
    scale: float = 1.0
    bright: bool = False


@dataclass(frozen=True)
class ItemKind:
    """A kind of thing to pick up, drawn at full brightness and large enough to be seen from across a room.

    Attributes:
        sprite: four-letter sprite name; its frame A never changes.
        scale: size of the sprite against Freedoom's own.
    """

    sprite: str
    scale: float


WALLS = (
    "BRICK1", "BRICK4", "BRICK6", "BRICK7", "BRICK10", "BRICK11", "BRICK12", "BIGBRIK1", "BIGBRIK2", "BRONZE1",
    "BRONZE3", "BROWNGRN", "BROWNHUG", "BSTONE1", "CEMENT7", "CEMENT9", "COMPBLUE", "CRACKLE2", "CRATE1", "CRATE2",
    "CRATE3", "GRAY1", "GRAY5", "ICKWALL1", "ICKWALL3", "MARBLE1", "MARBLE3", "MARBGRAY", "METAL1", "METAL2",
    "METAL5", "MODWALL1", "MODWALL3", "PANBLUE", "PANRED", "PANBOOK", "PANEL1", "PANEL4", "PIPEWAL1", "REDWALL",
    "ROCK1", "ROCK3", "ROCK5", "SHAWN2", "SILVER1", "SILVER2", "SKIN2", "SPACEW2", "SPACEW4", "STARG1", "STARGR1",
    "STARTAN3", "STARBR2", "STONE2", "STONE6", "STUCCO1", "STUCCO3", "TANROCK2", "TANROCK5", "TEKBRON1",
)  # fmt: skip
"""Wall textures: still ones, without holes, that differ at a glance."""

FLATS = (
    "CEIL1_1", "CEIL3_1", "CEIL3_5", "CEIL4_2", "CEIL5_1", "DEM1_1", "DEM1_5", "FLAT1", "FLAT10", "FLAT14", "FLAT18",
    "FLAT19", "FLAT1_1", "FLAT1_2", "FLAT2", "FLAT20", "FLAT23", "FLAT3", "FLAT4", "FLAT5", "FLAT5_1", "FLAT5_3",
    "FLAT5_4", "FLAT5_5", "FLAT8", "FLAT9", "FLOOR0_1", "FLOOR0_5", "FLOOR0_6", "FLOOR1_1", "FLOOR1_6", "FLOOR1_7",
    "FLOOR3_3", "FLOOR4_1", "FLOOR4_6", "FLOOR5_1", "FLOOR5_3", "FLOOR5_4", "FLOOR6_1", "FLOOR6_2", "FLOOR7_1",
    "FLOOR7_2", "GRASS1", "GRNROCK", "MFLR8_1", "MFLR8_2", "MFLR8_3", "MFLR8_4", "RROCK01", "RROCK03", "RROCK09",
    "RROCK14", "RROCK19", "SFLR6_1", "SLIME13", "SLIME14", "SLIME15",
)  # fmt: skip
"""Floor and ceiling textures: still ones."""

TINTS = (0xFFFFFF, 0xFFFFFF, 0xFFFFFF, 0xFFE0B0, 0xB0D0FF, 0xC0FFC0, 0xFFC0C0, 0xE0C0FF, 0xFFFFA0, 0xA0FFF0)
"""Colours of light, RGB."""

PROPS = {
    "green_column": PropKind("COL1"),
    "green_stump": PropKind("COL2"),
    "red_column": PropKind("COL3"),
    "red_stump": PropKind("COL4"),
    "skull_column": PropKind("COL6"),
    "floor_lamp": PropKind("COLU", scale=1.3, bright=True),
    "candelabra": PropKind("CBRA", bright=True),
    "pillar": PropKind("ELEC", scale=0.9),
    "burnt_tree": PropKind("TRE1", scale=1.2),
    "big_tree": PropKind("TRE2", radius=20, scale=0.9),
    "barrel": PropKind("BAR1", scale=1.3),
    "tall_lamp": PropKind("TLMP", bright=True),
    "short_lamp": PropKind("TLP2", bright=True),
    "blue_torch": PropKind("TBLU", bright=True),
    "green_torch": PropKind("TGRN", bright=True),
    "red_torch": PropKind("TRED", bright=True),
    "stalagmite": PropKind("SMIT", scale=1.3),
    "fire_barrel": PropKind("FCAN", scale=1.3, bright=True),
}

ITEMS = {
    "medikit": ItemKind("MEDI", 2.0),
    "golden_sphere": ItemKind("SOUL", 2.2),
    "fiery_sphere": ItemKind("MEGA", 2.2),
    "green_sphere": ItemKind("PINV", 2.2),
    "green_armour": ItemKind("ARM1", 1.7),
    "red_armour": ItemKind("ARM2", 1.7),
    "backpack": ItemKind("BPAK", 2.0),
    "blue_skull": ItemKind("BSKU", 4.0),
    "golden_skull": ItemKind("YSKU", 4.0),
    "red_skull": ItemKind("RSKU", 4.0),
    "white_suit": ItemKind("SUIT", 1.3),
    "green_screen": ItemKind("PMAP", 2.0),
    "red_box": ItemKind("SBOX", 2.2),
}

LEAVES = ("ZDOORB1", "ZELDOOR", "TNTDOOR", "SPCDOOR4", "LITEYEL3", "BIGDOOR2", "BIGDOOR7")
"""Textures of shut doors: of the height of a room, and none that a wall has."""
