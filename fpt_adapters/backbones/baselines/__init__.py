"""What a frozen transformer is compared with: an LSTM, and no backbone at all."""
