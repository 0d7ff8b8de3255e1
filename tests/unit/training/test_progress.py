from backstay.training.progress import Progress

NOW = {
    "step": 250,
    "steps": 1000,
    "epoch": 2.5,
    "epochs": 10,
    "loss": 0.51239,
    "alignment": 0.25,
    "rate": 123456.7,
    "seconds": 12.0,
    "remaining": 36.0,
}


def test_progress_reads_as_a_sentence():
    assert str(Progress(**NOW, score=0.25)) == (
        "epoch 2.5 of 10: loss 0.5124, alignment 0.2500, score 0.2500, "
        "123,457 triples/s, 12 s, 36 s left"
    )
    assert "score" not in str(Progress(**NOW, score=None))
