"""A tiny BART as Hugging Face saves it, and a tokenizer for it."""

SENTENCES = (
    "The lungs are clear.",
    "No pleural effusion or pneumothorax.",
    "Heart size is normal.",
    "There is a 3.5 cm mass in the right upper lobe, unchanged.",
    "Small left effusion (increased since the prior study).",
)
SIZES = {
    "model_type": "bart",
    "vocab_size": 300,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
}
