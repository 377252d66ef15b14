#!/bin/sh
# As the entry point of LiteLLM's own image: `proxy ...`, nothing or a word with a dash is for litellm; any other word
# is run as it is.
case "${1:-}" in
  proxy) shift; exec litellm "$@" ;;
  "" | -*) exec litellm "$@" ;;
  *) exec "$@" ;;
esac
