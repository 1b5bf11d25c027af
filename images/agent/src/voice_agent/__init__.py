"""The Voice Assistant's agent: LiveKit gives it calls, it joins each caller's room and answers."""
