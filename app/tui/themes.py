"""The app's own themes and the semantic colors that its style sheets and lines of text use."""

from __future__ import annotations

from textual.theme import BUILTIN_THEMES, Theme

DEFAULT = "mull-dark"

DARK = Theme(
    name="mull-dark",
    dark=True,
    primary="#d9a05b",
    secondary="#6fb7ae",
    accent="#d77a94",
    success="#8fbf7a",
    warning="#e2b34d",
    error="#e8716d",
    background="#15131a",
    surface="#1d1a24",
    panel="#26222f",
    foreground="#e8e3ee",
    variables={
        "mull-user": "#d77a94",
        "mull-effort": "#d9a05b",
        "mull-thought": "#b0a6c0",
        "mull-muted": "#9b92aa",
        "mull-rule": "#3b3547",
        "mull-weights": "#6fb7ae",
        "mull-kv": "#d9a05b",
        "mull-other": "#8d83a3",
        "mull-code": "#d3c7a8",
        "border": "#d9a05b",
        "border-blurred": "#3b3547",
        "footer-background": "#15131a",
        "block-cursor-foreground": "#15131a",
        "block-cursor-background": "#d9a05b",
        "input-selection-background": "#d9a05b 35%",
        "scrollbar": "#3b3547",
        "scrollbar-hover": "#4a4359",
        "scrollbar-active": "#d9a05b",
        "scrollbar-background": "#15131a",
        "scrollbar-background-hover": "#15131a",
        "scrollbar-background-active": "#15131a",
        "scrollbar-corner-color": "#15131a",
    },
)

LIGHT = Theme(
    name="mull-light",
    dark=False,
    primary="#8f5410",
    secondary="#1f6f66",
    accent="#a3304f",
    success="#3d6b26",
    warning="#8a5a00",
    error="#b3261e",
    background="#fbf8f3",
    surface="#f3eee6",
    panel="#e9e2d7",
    foreground="#2a2530",
    variables={
        "mull-user": "#a3304f",
        "mull-effort": "#8f5410",
        "mull-thought": "#5d5468",
        "mull-muted": "#6a6173",
        "mull-rule": "#cfc6ba",
        "mull-weights": "#1f6f66",
        "mull-kv": "#8f5410",
        "mull-other": "#6a6173",
        "mull-code": "#4d4117",
        "border": "#8f5410",
        "border-blurred": "#cfc6ba",
        "footer-background": "#fbf8f3",
        "block-cursor-foreground": "#fbf8f3",
        "block-cursor-background": "#8f5410",
        "input-selection-background": "#8f5410 30%",
        "scrollbar": "#cfc6ba",
        "scrollbar-hover": "#b9ae9f",
        "scrollbar-active": "#8f5410",
        "scrollbar-background": "#fbf8f3",
        "scrollbar-background-hover": "#fbf8f3",
        "scrollbar-background-active": "#fbf8f3",
        "scrollbar-corner-color": "#fbf8f3",
    },
)

_ANSI_BASE = BUILTIN_THEMES["ansi-dark"]

ANSI = Theme(
    name="mull-ansi",
    ansi=True,
    dark=True,
    primary="ansi_yellow",
    secondary="ansi_cyan",
    accent="ansi_magenta",
    success="ansi_green",
    warning="ansi_yellow",
    error="ansi_red",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    foreground="ansi_default",
    variables={
        **_ANSI_BASE.variables,
        "mull-user": "ansi_magenta",
        "mull-effort": "ansi_yellow",
        "mull-thought": "ansi_cyan",
        "mull-muted": "ansi_bright_black",
        "mull-rule": "ansi_bright_black",
        "mull-weights": "ansi_cyan",
        "mull-kv": "ansi_yellow",
        "mull-other": "ansi_bright_black",
        "mull-code": "ansi_green",
    },
)

OWN = (DARK, LIGHT, ANSI)


def semantic_defaults(theme: Theme) -> dict[str, str]:
    """The semantic colors under a theme that is not ours, from the colors that every theme has."""
    primary, foreground = theme.primary, theme.foreground or "ansi_default"
    return {
        "mull-user": theme.accent or primary,
        "mull-effort": theme.warning or primary,
        "mull-thought": foreground,
        "mull-muted": foreground,
        "mull-rule": theme.secondary or primary,
        "mull-weights": theme.secondary or primary,
        "mull-kv": theme.warning or primary,
        "mull-other": foreground,
        "mull-code": foreground,
    }
