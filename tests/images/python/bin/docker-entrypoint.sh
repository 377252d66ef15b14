#!/bin/sh
# Starts as LiteLLM's own image does: `proxy ...`, nothing, or a word with a dash are LiteLLM's arguments; any other
# word is a command and run as it is.
case "${1:-}" in
  proxy) shift && exec litellm "$@" ;;
  "" | -*) exec litellm "$@" ;;
  *) exec "$@" ;;
esac
