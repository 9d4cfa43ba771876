"""The icons: 24 by 24, drawn with a stroke in the colour of the text beside them, inline in the page."""

from __future__ import annotations

from markupsafe import Markup

__all__ = ["icon"]

_CIRCLE = '<circle cx="12" cy="12" r="9"/>'
_SHAPES = {
    # states
    "scheduled": f'{_CIRCLE}<path d="M12 7v5l3 2"/>',
    "blocked": f'{_CIRCLE}<path d="M10 9v6M14 9v6"/>',
    "queued": '<circle cx="12" cy="12" r="9" stroke-dasharray="3.2 2.46"/>',
    "running": '<circle cx="12" cy="12" r="9" opacity=".28"/><path d="M12 3a9 9 0 0 1 9 9"/>',
    "cancelling": '<circle cx="12" cy="12" r="9" opacity=".28"/><path d="M12 3a9 9 0 0 1 9 9M9 9h6v6H9z"/>',
    "succeeded": f'{_CIRCLE}<path d="m8 12.4 2.7 2.7L16 9.4"/>',
    "failed": f'{_CIRCLE}<path d="m9 9 6 6M15 9l-6 6"/>',
    "cancelled": f'{_CIRCLE}<path d="M5.8 5.8l12.4 12.4"/>',
    "skipped": '<path d="M5 6v12l7-6zM13 6v12l7-6z"/>',
    # attempts that end otherwise
    "timed_out": f'{_CIRCLE}<path d="M12 7v5l3 2"/>',
    "lost": f'{_CIRCLE}<path d="M9.6 9.4a2.5 2.5 0 1 1 3.4 2.5c-.7.3-1 .7-1 1.5M12 16.6v.1"/>',
    "released": '<path d="M4 12a8 8 0 1 1 2.5 5.8M4 19v-4h4"/>',
    "missed": f'{_CIRCLE}<path d="M12 7v6M12 16.4v.1"/>',
    "fired": f'{_CIRCLE}<path d="m10.5 8.5 5 3.5-5 3.5z"/>',
    # navigation and actions
    "overview": '<path d="M4 4h7v9H4zM13 4h7v5h-7zM13 11h7v9h-7zM4 15h7v5H4z"/>',
    "runs": '<path d="M4 6h16M4 12h16M4 18h10"/><path d="m17 15 4 3-4 3z"/>',
    "tasks": '<rect x="5" y="4" width="14" height="17" rx="2"/><path d="M9 4V3h6v1M9 11h6M9 15h4"/>',
    "schedules": '<rect x="4" y="5" width="16" height="16" rx="2"/><path d="M4 10h16M8 3v4M16 3v4M12 13v3l2 1"/>',
    "workers": '<rect x="4" y="4" width="16" height="7" rx="2"/><rect x="4" y="13" width="16" height="7" rx="2"/>'
    '<path d="M8 7.5h.1M8 16.5h.1M12 7.5h4M12 16.5h4"/>',
    "plugins": '<path d="M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4"/>',
    "plugin": '<rect x="4" y="4" width="16" height="16" rx="5"/><path d="M9 12h6"/>',
    "plus": '<path d="M12 5v14M5 12h14"/>',
    "play": '<path d="M7 5v14l11-7z"/>',
    "pause": '<path d="M8.5 5v14M15.5 5v14"/>',
    "past": '<path d="M4 12a8 8 0 1 1 2.5 5.8M4 19v-4h4M12 8v4.5l3 1.5"/>',
    "stop": '<rect x="6" y="6" width="12" height="12" rx="1.5"/>',
    "again": '<path d="M20 12a8 8 0 1 1-2.5-5.8M20 5v4h-4"/>',
    "edit": '<path d="M4 20l1-4L16 5l3 3L8 19zM14 7l3 3"/>',
    "trash": '<path d="M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13"/>',
    "download": '<path d="M12 4v11M7 11l5 5 5-5M5 20h14"/>',
    "expand": '<path d="M4 9V4h5M20 15v5h-5M4 4l6 6M20 20l-6-6"/>',
    "copy": '<rect x="9" y="9" width="11" height="11" rx="2"/><path d="M5 15H4V4h11v1"/>',
    "wrap": '<path d="M4 6h16M4 12h13.5a3.5 3.5 0 0 1 0 7H13M15.5 16.5 13 19l2.5 2.5M4 19h4"/>',
    "down": '<path d="M12 5v14M6 13l6 6 6-6"/>',
    "alert": '<path d="M12 4 2.8 20h18.4zM12 10v5M12 17.6v.1"/>',
    "sun": '<circle cx="12" cy="12" r="4"/><path d="M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19'
    'M5 19l1.4-1.4M17.6 6.4 19 5"/>',
    "moon": '<path d="M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z"/>',
    "system": '<rect x="3" y="5" width="18" height="12" rx="2"/><path d="M9 21h6M12 17v4"/>',
    "leave": '<path d="M10 4H5v16h5M14 8l4 4-4 4M9 12h9"/>',
    "calm": '<path d="M4 14c3 0 3-4 6-4s3 4 6 4 3-2 4-3"/>',
}


def icon(name: str) -> Markup:
    """The icon of that name, hidden from screen readers: a word always stands beside it."""
    shapes = Markup(_SHAPES[name])
    return Markup('<svg class="icon i-{}" viewBox="0 0 24 24" aria-hidden="true">{}</svg>').format(name, shapes)
