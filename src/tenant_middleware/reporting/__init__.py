"""What operators look at: latency verdicts, heat maps, and one page that has it all."""
