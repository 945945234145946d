"""The gate: what will ship, judged against FP32."""
