"""The pages: plain scripts, run by Streamlit."""
