"""What people look at: a Streamlit app over run directories, and the table for other viewers.

`queries.py` reads runs (DuckDB, no streamlit), `charts.py` draws (pure), `parts.py` holds what
several pages show, `app_pages/` has one script a page, `app.py` only routes.
"""
